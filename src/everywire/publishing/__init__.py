"""Publishing: `everywire.publish` from any process, through the server in it or by an address."""
