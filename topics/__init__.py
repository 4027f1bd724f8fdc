"""Who is where: topics, announcements, the view of the members, the election."""
