"""Files between nodes: beside an HTTP server and a client of it, and beside BitTorrent."""
