"""How a language model is built, reads a request and speaks under rules.

Knows no reward and no equation of learning."""
