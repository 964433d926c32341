"""The Centrifuge client protocol, version 2: messages, and the two forms in which they travel."""
