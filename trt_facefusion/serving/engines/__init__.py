"""Engines behind one name that stand in for each other, and a candidate that takes the place of the first one.

May import what `serving` may, and its `seam`.

Modules, from the ground up:

    events, readings                    what happens, for logs; counters, for whoever exposes them
    health, engine_thread               when an engine is out and tried again; calls that may hang
    members, probe                      which engines stand behind one name; the face that they are tried with
    pooled, pool                        one engine that comes and goes; all of them, each answering for the one before
    shares, budget                      which requests take part; what a candidate may lose
    rollout, rollout_file               what is decided of a candidate; where that survives a restart
    rollout_keeper, shadow              the two kept in step; comparisons behind the answers
    canary                              a pool in which a candidate takes part

Start with `pool.py`, then `rollout.py`.
"""
