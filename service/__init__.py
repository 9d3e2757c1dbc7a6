"""Callsheet: submit a paid AI media job once; every URL that asked gets one signed event.

The pipeline, in the order in which a job passes through it:

    submission   claim -> send -> record     one POST to the provider, at most one charge
    callbacks    verify -> read -> apply     the provider tells us
    polling      claim -> send -> record     nobody tells us, or too late
    transitions  decide -> apply             one transaction: job, event, deliveries
    delivery     claim -> send -> record     one signed event to every URL that asked
"""

__version__ = "0.1.0"
