"""What proves the bits: golden digests, the programs that make them, and the certificate."""
