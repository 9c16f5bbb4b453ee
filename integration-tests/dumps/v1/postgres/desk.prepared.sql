begin;
update account set balance = balance + 7 where id = 15;
insert into ledger (gtid, account, amount) values ('01a228ab-a241-75ba-9692-ffc5e251cd34', 15, 7);
prepare transaction 'assent:c0293597-eb08-4453-9994-d856f35197ab:{database}:desk:01a228ab-a241-75ba-9692-ffc5e251cd34';
begin;
update account set balance = balance + 7 where id = 16;
insert into ledger (gtid, account, amount) values ('01a228ab-a24b-709d-b0dc-6a69df972483', 16, 7);
prepare transaction 'assent:c0293597-eb08-4453-9994-d856f35197ab:{database}:desk:01a228ab-a24b-709d-b0dc-6a69df972483';
