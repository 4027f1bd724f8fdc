"""What was used and what it costs: reports, and proofs that anybody can check."""
