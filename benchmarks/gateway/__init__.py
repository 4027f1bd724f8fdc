"""What our gateway adds to a request, beside LiteLLM's proxy."""
