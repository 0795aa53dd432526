"""Judge whether a method harmonizes, keeps the anatomy and helps downstream work.

study       the scans, and what is known of each
store       results on disk, each under the key that determines it
methods     ours, what a user would otherwise pick, and controls, behind one interface
phantoms    simulated scanners, travelling subjects and lesions
workspace   cases, tissue labels and outputs, taken from the store
tools       what the measures need, fitted to the target's training scans
measures    one module for each part of the report; each measure is registered where it is written
plan, measuring, run
            what is computed, its rows, and the whole evaluation
summary, report
            means with intervals, tables, figures, one HTML page

Everything is measured on the model grid and in model units, on outputs that all methods make of
the same preprocessed scans, inside the same mask.
"""
