"""Keep judged programs, and draw them by priority."""
