"""The gateway role: holds the client, the prompt and the seal; asks for placements; goes on after a failure."""
