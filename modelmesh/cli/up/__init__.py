"""`modelmesh up`: a fleet on one machine, to try out and to test with.

    wanted -> plan (ports) -> children (argv, environment) -> Kept (one child, kept alive) -> Fleet
                                                               looks -> screen

An etcd and some daemons are children of this command: each is started again when it ends, and all
of them end with it, even if it is killed. What is decided stands in pure modules (plan, children,
restarts, rows); what acts is small. It must never be what a production runs on: nothing here knows
a second machine.
"""
