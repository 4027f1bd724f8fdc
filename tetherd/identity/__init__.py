"""Who a client is by the word of somebody else: tokens of an OIDC issuer."""
