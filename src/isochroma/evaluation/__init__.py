"""Does a method harmonize, does it keep the anatomy, and does downstream work get better?

study     which scans there are, and what is known of each
methods   ours, what a user would otherwise pick, and controls, behind one interface
truth, closeness, anatomy, segmentation, age, audit
          the measures, one question each
run       every method on every scan, cached, and every measure on every output
report    tables with bootstrap intervals, figures, one HTML page

Everything is measured on the model grid and in model units, on outputs that all methods make of
the same preprocessed scans, inside the same mask.
"""
