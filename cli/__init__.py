"""The commands tetherd and tetherctl. Imports at start-up neither libp2p nor the HTTP server."""
