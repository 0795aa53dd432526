"""The kinds of malformed input: each makes one at random, reads it, and judges what was accepted.

Right is what an independent reading of the same bytes gives: nibabel's for volumes, a plain split
at tabs and PyYAML's text for tables, `json` and safetensors' NumPy reader for models. What a
changed header or voxel says is what the file says; where a checksum lies beside the data, right is
the original.
"""
