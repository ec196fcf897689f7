"""Videos: frames decoded, swapped and encoded at the same time; sound kept; resumed after a kill.

A video is written in two steps. Its frames are encoded in segments, which are kept in a journal beside the result: who
was killed goes on behind the last whole segment. When all frames are there, the segments become one stream, the sound
of the source is copied beside it packet by packet, and the file appears whole. Both steps are the same whether or not
there was a kill in between, and so is the file. PyAV (the extra `video`) is imported where it is needed only.

May import: the ground, `storage`, `faces` and what stands above `video` in `swap`.

Modules, from the ground up:

    frames      decoded frames as RGB; pasted pixels back into their planes
    encoding    which encoder writes, and how
    journal     the segments that are done
    segments    frames into the journal
    mux         the finished file
    flow        stages in threads of their own, with short queues between them
    render      all of it: `VideoSwap`

Start with `render.py`.
"""
