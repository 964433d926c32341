"""Engine.IO, versions 4 and 3: packets, the payloads of polling, and JSONP."""
