"""Images too large for one process: worked on in parts, by all workers, and put together.

    image ─ parts (grid) ─┬─ predict: window → maps ─ scale ─┐
                          │                                  ├─ label: maps → objects, seams ─┐
                          └──────── of the whole image ──────┘                                │
                                        rows of the shard ─ finish: objects of the image ─────┘

    grid.py         how an image is cut
    keeping.py      what each part has come to, in the run's folder: nothing is computed twice
    predict.py      a window of the image → the method's maps of a part
    label.py        the maps around a part → its objects, and what it says to its neighbours
    overlapping.py  likewise, where objects may overlap: each belongs to one part, whole
    finish.py       all parts → the rows of the image

Each step is a function of one part. What they hand on lies in the run's folder until the shard is
committed, so that a run that was killed goes on with the parts that are missing. No Ray in here.
"""
