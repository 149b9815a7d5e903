"""The tiering process. So far it observes: it samples heat and logs what it saw. It plans nothing and moves nothing."""
