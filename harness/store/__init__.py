"""The results database: tables, migrations, the one writer (`store`) and every SELECT of the reports (`queries`)."""
