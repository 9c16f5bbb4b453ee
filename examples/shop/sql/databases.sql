-- One database for each service; run once, by the image of Postgres.
create database orders;
create database inventory;
create database payments;
