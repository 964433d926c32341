"""HTTP/1.1 without I/O: request heads, chunked bodies, response heads, forwarding fields."""
