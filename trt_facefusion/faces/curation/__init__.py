"""What a folder of faces covers, where its gaps are, and the selection of its photos that covers most.

Each photo is measured while it is in memory: sharpness, exposure, pose, skin tone, what covers the face. The figures
are sorted into bins along a few axes, whose shares are held against targets; near copies and people are counted. A
selection takes, photo by photo, what lies farthest from all that was taken and fills the bins that still lack. Figures
are hints for a person who gathers faces: what they are worth was measured, and is said where they are defined.

May import `faces` and what that may import. The activations of a generator, as further features of a photo, come from
`build/` as an argument.

From the ground up:

    chip                          the one picture of a face that all measures are taken from
    light, pose, tone, covering   sharpness and exposure; head pose; skin tone; covered eyes and mouth
    measure                       all of these for one photo (`SurveyedPhoto`), while its pixels are there
    copies                        groups of near copies, and of people
    survey                        a folder, each photo of it measured
    facets                        the bin of a photo on every axis
    coverage                      shares of the bins, held against targets; gaps in words
    select                        the selection

Start with `survey.py`, then `coverage.py` and `select.py`.
"""
