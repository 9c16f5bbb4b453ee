begin;
update account set balance = balance + -18 where id = 19;
insert into ledger (gtid, account, amount) values ('01a228ab-a944-76d2-a522-2ab3cb429137', 19, -18);
prepare transaction 'assent:c0293597-eb08-4453-9994-d856f35197ab:{database}:safe-a:01a228ab-a944-76d2-a522-2ab3cb429137';
