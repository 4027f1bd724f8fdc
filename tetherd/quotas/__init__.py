"""What a tenant may use, and how that is counted: pure decisions; tetherd/store keeps the books."""
