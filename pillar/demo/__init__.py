"""The demo: from a device config to a running ECO, on a device that lives below one directory.

eco       the application image: a real program that answers over HTTP
images    the server the image is fetched from
device    the device config, and looking at what its agents publish
show      what happens, step by step
screen    how it is shown: lines for people, objects for programs
"""
