"""Jobs that ended without an answer and without their client's fault, until somebody looks at them."""
