"""Layer 2 machines in virtual time, without a socket."""
