"""Kill anybody's agent at every step and compare the end with that of an undisturbed run: `pillar killmatrix`.

    trees    what a run leaves, and what differs        inputs   what it is given, in steps
    run      one run: start, kill, start again, rest    matrix   all runs
    story    the time line of a run                     text, page   the matrix as text and JSON, and as HTML
    plugin   the pytest fixture `pillar_killmatrix`

docs/killmatrix.md tells how to use it.
"""
