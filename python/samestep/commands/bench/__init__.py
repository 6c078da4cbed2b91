"""The command `samestep bench`: times a step, the same step of installed peers, and the roof.

``cases`` lists what is measured, ``peers`` has the same step by other packages, ``turns`` measures time,
``run`` makes the rows, ``show`` prints and draws them. A peer is imported when it is measured.
"""
