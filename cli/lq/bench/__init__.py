"""``lq bench``: how fast it is here, beside the bare limit and beside other queues.

Who measures (``running``, ``rounds``) and who is measured (``ours``, ``bare``, and a file for each
peer) are processes of their own, and speak by a small protocol (``adapter``), so that ours is run
exactly as the others are.
"""
