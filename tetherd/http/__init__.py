"""The REST shim: OpenAI's HTTP interface on localhost."""
