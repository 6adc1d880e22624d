"""What an EVE controller says on the wire: the protobuf messages, compiled ahead.

`config.proto` is the source; `scripts/compile-protos` makes `config_pb2.py` and `.pyi` from it, and both are checked
in, so that running Pillar needs only the protobuf runtime. Importing `config_pb2` loads protobuf: import it where a
device config is really read or written.
"""
