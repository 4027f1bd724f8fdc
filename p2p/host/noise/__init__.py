"""Noise as libp2p speaks it: `Noise_XX_25519_ChaChaPoly_SHA256`, without IO.

handshake (three messages, then two keys) ──> transport (Sealer, Opener)
payload: what libp2p puts into messages 2 and 3

https://noiseprotocol.org/noise.html (revision 34) and https://github.com/libp2p/specs/blob/master/noise
"""
