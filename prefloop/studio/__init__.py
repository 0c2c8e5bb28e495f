"""The labelling studio: people compare in a browser, the store keeps it. Starts and runs without torch."""
