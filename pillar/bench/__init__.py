"""Speed and size, as ratios to a floor that is measured in the same run.

A floor does the same system calls on the same bytes, and the same encoding and decoding, in a bare loop: what is
above it is what the library costs. Floor and subject take turns, five times each; medians are compared.
Tables are on tmpfs (/dev/shm), records are a DownloaderStatus of 1 KiB.

    measure    taking turns, medians
    library    publish, latency, burst, growth
    processes  zedmanager's memory, an agent's start, a whole deployment
    recover    until all is well again after kill -9 of one agent, and of all
    children   the other end, in a process of its own
"""
