"""The command `samestep bench`: times a step, the same step of installed peers, and the roof.

``cases`` lists what is measured, ``peers`` has the same step by other packages, ``roof`` the machine's limit.
``situations`` says what runs just before a timed call, ``turns`` lets contenders take turns, ``ratios`` makes
intervals and verdicts of their times. ``run`` makes the rows, ``show`` prints and draws them; ``compare`` and
``machine`` do that for the scripts in bench/. A peer is imported when it is measured.
"""
