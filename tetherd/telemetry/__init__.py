"""What operators see: metrics, traces, logs. The parts say what happened; this package gives it a name and a form."""
