"""This queue as an adapter: real ``lq worker`` processes on databases of their own.

The settings are the defaults, as in the tests of faults: ``synchronous=FULL``, fences, every job
with a ``timeout=``, results stored, read back and compared.
"""
