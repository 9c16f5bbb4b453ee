begin;
update account set balance = balance + 9 where id = 19;
insert into ledger (gtid, account, amount) values ('01a228ab-a944-76d2-a522-2ab3cb429137', 19, 9);
prepare transaction 'assent:c0293597-eb08-4453-9994-d856f35197ab:{database}:safe-b:01a228ab-a944-76d2-a522-2ab3cb429137';
