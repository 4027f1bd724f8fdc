"""Whether strangers' dials arrive: AutoNAT v2 between members, and what a node makes of several answers.

    messages  the wire: a request, data against amplification, an answer, and the nonce that is dialled back
    verdict   several peers' answers become public or private, pure; plan: whom to ask, and when again, pure
    asking    one question to one peer        answering  one dial for a peer that asked        autonat  the shell

https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md
"""
