"""Time of a step beside the peers that are installed and beside the roof; the command `samestep bench`.

``cases`` says what is measured, ``peers`` how others do it, ``turns`` keeps time, ``run`` makes the
rows, ``show`` prints and draws them. Peers are imported when a measurement asks for them.
"""
