"""Annotated images looked at as a whole: what is in them, what is wrong, what fits them.

facts.py         one image → what it says (runs wherever the image is decoded)
fingerprint.py   many facts → one summary a split, which adds up
problems.py      facts → what stops a training, and what is worth a note
configure.py     fingerprint + hardware + time → every setting that was left open, with reasons
rules.py         how each of them follows; recipes.py: what suits a kind of device
picture.py       a few telling images with their labels, and histograms
"""
