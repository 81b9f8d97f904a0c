"""BGP and BFD against real routers: FRR, BIRD, GoBGP and ExaBGP, each in a network namespace."""
