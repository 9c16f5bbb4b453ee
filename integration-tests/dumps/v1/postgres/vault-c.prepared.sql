begin;
update account set balance = balance + 9 where id = 18;
insert into ledger (gtid, account, amount) values ('01a228ab-a4d3-755b-b758-5f4a5143cf51', 18, 9);
prepare transaction 'assent:c0293597-eb08-4453-9994-d856f35197ab:{database}:vault-c:01a228ab-a4d3-755b-b758-5f4a5143cf51';
