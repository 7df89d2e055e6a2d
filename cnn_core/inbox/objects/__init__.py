"""The inbox of sets of boxes and masks: deliveries in any of their formats, judged and added to the source."""
