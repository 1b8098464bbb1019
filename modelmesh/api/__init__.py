"""The faces (gRPC, REST, management, operations): messages in and out, no decisions."""
