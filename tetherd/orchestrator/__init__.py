"""The orchestrator role: claims jobs, picks workers, reserves slots, signs grants, settles."""
