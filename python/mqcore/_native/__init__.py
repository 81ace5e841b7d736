"""Native modules of mqcore; only mqcore.log, mqcore.wire and the client's producer import them."""
