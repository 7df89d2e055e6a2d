"""Pictures from anywhere: folders, archives, tables and videos, found, decoded and compared."""
