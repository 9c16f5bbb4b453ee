begin;
update account set balance = balance + -22 where id = 20;
insert into ledger (gtid, account, amount) values ('01a228ab-ae7d-7065-9c38-25a72ad6cfe4', 20, -22);
prepare transaction 'assent:c0293597-eb08-4453-9994-d856f35197ab:{database}:chest-a:01a228ab-ae7d-7065-9c38-25a72ad6cfe4';
