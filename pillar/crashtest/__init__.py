"""Kill every agent at every state-changing call of the ECO flow, and compare how it ends with the undisturbed run.

cases      what can be asked: suite, point, action
config     the apps, their images, signatures and configs
world      a device: agents under a supervisor and under the shim, an image server
observer   an onlooker that follows the statuses and knows the legal steps
tree       the whole tree as a value that can be compared
story      the ECO flow and its invariants       restart, boot    agents killed while they start
core       two tiny agents (coreagents) for all pairs of kills
keys       EIDs are made once                    boundaries       where handlers begin and change nothing
runner     cases on devices, several at once     journal          what is done already
"""
